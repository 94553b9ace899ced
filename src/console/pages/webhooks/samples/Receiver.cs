// dotnet new web, and this as its Program.cs; nothing to install
using System.Security.Cryptography;
using System.Text;

const string Prefix = "whsec_";
var secret = Environment.GetEnvironmentVariable("WEBHOOK_SECRET") ?? throw new InvalidOperationException("WEBHOOK_SECRET");
var key = Convert.FromBase64String(secret.StartsWith(Prefix) ? secret[Prefix.Length..] : secret);
var port = Environment.GetEnvironmentVariable("PORT") ?? "8080";
var app = WebApplication.CreateBuilder(args).Build();

// Whether one of the signatures is ours, over the bytes as they came, and fresh.
bool IsGenuine(IHeaderDictionary headers, byte[] body)
{
    string id = headers["webhook-id"].ToString(), timestamp = headers["webhook-timestamp"].ToString();
    if (!long.TryParse(timestamp, out var sent)
        || Math.Abs(DateTimeOffset.UtcNow.ToUnixTimeSeconds() - sent) > 300)
    {
        return false;
    }
    var signed = Encoding.UTF8.GetBytes($"{id}.{timestamp}.").Concat(body).ToArray();
    var expected = Encoding.UTF8.GetBytes("v1," + Convert.ToBase64String(HMACSHA256.HashData(key, signed)));
    return headers["webhook-signature"].ToString().Split(' ')
        .Any(signature => CryptographicOperations.FixedTimeEquals(expected, Encoding.UTF8.GetBytes(signature)));
}

app.MapPost("/{**path}", async (HttpRequest request) =>
{
    using var bytes = new MemoryStream();
    await request.Body.CopyToAsync(bytes);
    var body = bytes.ToArray();
    if (!IsGenuine(request.Headers, body))
    {
        return Results.Unauthorized();
    }
    // Drop ids that you have seen: a POST may come twice.
    Console.WriteLine($"{request.Headers["webhook-id"]} {Encoding.UTF8.GetString(body)}");
    return Results.NoContent();
});

app.Run($"http://*:{port}");
